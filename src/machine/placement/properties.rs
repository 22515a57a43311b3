//! What holds of the placement whatever happens.
