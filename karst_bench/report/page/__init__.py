"""The report as one HTML file that needs no server and no network: tables, plots, and the records behind each number."""
