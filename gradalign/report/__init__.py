"""Reads a finished run, judges it and renders it: tables, page, verdict, gate, export."""
