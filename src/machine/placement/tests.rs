//! The rules of the placement, one by one.
