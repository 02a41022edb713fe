"""Pages that show a run: values in, the text of one HTML file out; nothing is read, written or imported from outside."""
