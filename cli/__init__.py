"""The command line of gradalign: it parses, calls the library, and prints."""
