//! The ranges of what an application may ask of the queues (API.md, "Ranges"), and the bounds that API.md
//! leaves to us, checked in one place for HTTP and library alike.
