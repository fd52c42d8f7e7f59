// What else there is besides queries and clips.
const MASK: u32 = 1u;
const SCALE: u32 = 2u;
