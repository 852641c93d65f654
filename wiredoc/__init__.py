"""What is generated from the tables of `fabricbios.wire`: dissector, C header, pages of the spec.

`python -m wiredoc --write` after a change of the tables; a test compares what is checked in.
"""
