//! (owned by state)
