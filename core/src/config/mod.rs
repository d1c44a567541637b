//! What the server runs with, once files, flags and defaults are settled.
