"""Where labelled images come from: folders with lists, tensorflow-datasets, the lists as published."""
