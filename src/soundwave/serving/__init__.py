"""An engine behind HTTP, in the dialect of OpenAI's API; needs the extra `serve`."""
