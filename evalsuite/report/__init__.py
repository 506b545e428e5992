"""What a run found, as one page that needs nothing but itself; `evalsuite.report.writing` puts it into a folder."""
