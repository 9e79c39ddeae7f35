"""One method, one file: its equation and where it goes. A new file with a YAML in conf/method/ is listed and tested by itself."""
