//! Rewrites of the graph: one pass, one file.
