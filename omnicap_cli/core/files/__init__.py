"""Files that are whole or not there, locks, and words for people.

May import no other room.
"""
