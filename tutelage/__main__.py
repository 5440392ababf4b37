"""`python -m tutelage`."""

from tutelage.cli.main import main

main()
