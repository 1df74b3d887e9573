use std::time::Duration;

use super::{super::tone, *};

const FRAME: u64 = FRAME_SAMPLES as u64;
