"""From photos to an inspection report: tiles, heat maps, regions, tables, overlays, GeoJSON and HTML."""
