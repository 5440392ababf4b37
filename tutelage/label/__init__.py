"""The web app where people teach the model. Knows the store and HTML; knows no tensor and starts without torch."""
