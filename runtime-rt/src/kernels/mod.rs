//! Portable reference kernels, one family per file.
