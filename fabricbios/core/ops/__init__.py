"""The control ops by family; `core.requests.HANDLERS` says which op is whose.

A handler takes (state, ask, params, now) and returns the result's bytes, or None when the answer comes
later, when an effect has succeeded; it raises Refused for every other status.
"""
