"""The command line: parsing of arguments and printing of results. The work is done in other packages."""
