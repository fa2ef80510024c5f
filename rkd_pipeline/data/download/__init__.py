"""Fetching datasets: finding or downloading them, and unpacking archives safely."""
