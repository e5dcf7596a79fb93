"""One file per revision; ids and names are public and never change."""
