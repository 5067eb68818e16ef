"""A phone application as a graph of pages: one state seen as text, as a picture and as a page in a real browser."""
