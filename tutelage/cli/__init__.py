"""The command line: one thin command a job. Each imports the room that it calls inside the command."""
