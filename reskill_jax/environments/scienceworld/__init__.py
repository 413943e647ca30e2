"""ScienceWorld: elementary science in text, played by the published simulator."""
