"""Traces told: what an action did, as a tree of requests, operations and kernel calls."""
