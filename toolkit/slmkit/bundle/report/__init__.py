"""The report of a bundle, for people: report.html and report.md, out of its manifest alone."""
