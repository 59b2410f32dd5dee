"""The command line: one verb, one function; `app` puts them together and turns failures into exit codes."""
