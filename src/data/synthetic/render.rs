//! Draws clips.

use super::events::{Action, Colour, Event, Shape};
use crate::random::Random;

/// Frames in a clip of a [`World`](super::World); each event takes half of them.
pub const FRAMES: usize = 8;

/// Height and width of such a frame in pixels.
pub const SIZE: usize = 32;

/// Bytes of such a frame: (height, width, RGB).
pub const FRAME_BYTES: usize = SIZE * SIZE * 3;

/// What clips are drawn on.
#[derive(Clone, Copy)]
pub struct Stage {
    /// Frames in a clip: an even number, at least 4.
    pub frames: usize,
    /// Height and width of a frame in pixels.
    pub size: usize,
}

impl Stage {
    /// That of a [`World`](super::World).
    pub const SMALL: Stage = Stage { frames: FRAMES, size: SIZE };

    /// How many pixels are as long as one of the small stage, for which all lengths below are given.
    fn scale(self) -> f32 {
        self.size as f32 / SIZE as f32
    }
}

/// How far an actor moves, in pixels.
const TRAVEL: f32 = 12.0;
/// The radius of an actor that grows or shrinks, at its smallest and largest.
const RADII: [f32; 2] = [2.5, 6.5];
/// The least and greatest radius of an actor that moves.
const RADIUS: [f32; 2] = [4.0, 5.0];
/// Standard deviation of the pixel noise, where full brightness is 1.
const NOISE: f32 = 0.03;

/// One actor of one clip, with everything about it that is random.
struct Actor {
    event: Event,
    rgb: [f32; 3],
    radius: f32,
    /// The centre before it moves.
    start: [f32; 2],
    scale: f32,
}

impl Actor {
    fn new(event: Event, stage: Stage, random: &mut Random) -> Self {
        let scale = stage.scale();
        let gain = between(random, 0.85, 1.0);
        let radius = scale * between(random, RADIUS[0], RADIUS[1]);
        let margin = match event.action {
            Action::Grow | Action::Shrink => scale * RADII[1] + 1.0,
            _ => radius + 1.0,
        };
        // The whole way lies inside the frame.
        let (low, high) = (margin, stage.size as f32 - margin);
        let travel = scale * TRAVEL;
        let [mut x, mut y] = [[low, high]; 2];
        match event.action {
            Action::Left => x[0] += travel,
            Action::Right => x[1] -= travel,
            Action::Rise => y[0] += travel,
            Action::Fall => y[1] -= travel,
            Action::Grow | Action::Shrink => {}
        }
        let start = [between(random, x[0], x[1]), between(random, y[0], y[1])];
        Self { event, rgb: rgb(event.colour).map(|c| c * gain), radius, start, scale }
    }

    /// Centre and radius when `progress`, from 0 to 1, of the event is over.
    fn at(&self, progress: f32) -> ([f32; 2], f32) {
        let [x, y] = self.start;
        let way = self.scale * TRAVEL * progress;
        let [small, large] = RADII.map(|r| self.scale * r);
        match self.event.action {
            Action::Left => ([x - way, y], self.radius),
            Action::Right => ([x + way, y], self.radius),
            Action::Rise => ([x, y - way], self.radius),
            Action::Fall => ([x, y + way], self.radius),
            Action::Grow => ([x, y], small + (large - small) * progress),
            Action::Shrink => ([x, y], large + (small - large) * progress),
        }
    }
}

/// A clip of `events` on `stage`, one after the other: bytes (frame, height, width, RGB).
///
/// Only one actor is on stage at a time. With both on stage, the mean frame would show where each of them rests, and
/// thereby the order.
pub fn render(events: [Event; 2], stage: Stage, random: &mut Random) -> Vec<u8> {
    let Stage { frames, size } = stage;
    let actors = events.map(|event| Actor::new(event, stage, random));
    let background = between(random, 0.05, 0.15);
    let mut pixels = Vec::with_capacity(frames * size * size * 3);
    for frame in 0..frames {
        let actor = &actors[frame * 2 / frames];
        let step = frame % (frames / 2);
        let (centre, radius) = actor.at(step as f32 / (frames / 2 - 1) as f32);
        for y in 0..size {
            for x in 0..size {
                let [dx, dy] = [x as f32 + 0.5 - centre[0], y as f32 + 0.5 - centre[1]];
                // A pixel is one wide, so the distance to the edge is the share of it that is covered.
                let covered = (0.5 - distance(actor.event.shape, dx, dy, radius)).clamp(0.0, 1.0);
                for colour in actor.rgb {
                    let value = background + covered * (colour - background) + NOISE * noise(random);
                    pixels.push((value.clamp(0.0, 1.0) * 255.0 + 0.5) as u8);
                }
            }
        }
    }
    pixels
}

/// Signed distance in pixels to the edge of a shape around the origin, negative inside; `y` points down.
fn distance(shape: Shape, x: f32, y: f32, radius: f32) -> f32 {
    let (ax, ay) = (x.abs(), y.abs());
    match shape {
        Shape::Circle => (x * x + y * y).sqrt() - radius,
        // As large in area as the circle.
        Shape::Square => ax.max(ay) - 0.886 * radius,
        // Point up, as high as the circle; the slanted sides have the slope 2.
        Shape::Triangle => {
            let slant = (2.0 * ax - y - radius) / 5.0f32.sqrt();
            slant.max(y - radius)
        }
        Shape::Cross => {
            let arm = 0.35 * radius;
            (ax - radius).max(ay - arm).min((ax - arm).max(ay - radius))
        }
    }
}

fn rgb(colour: Colour) -> [f32; 3] {
    match colour {
        Colour::Red => [1.0, 0.1, 0.1],
        Colour::Green => [0.1, 0.9, 0.15],
        Colour::Blue => [0.15, 0.25, 1.0],
        Colour::Yellow => [1.0, 0.9, 0.1],
        Colour::Purple => [0.7, 0.15, 0.85],
        Colour::White => [1.0, 1.0, 1.0],
    }
}

fn between(random: &mut Random, low: f32, high: f32) -> f32 {
    low + (high - low) * random.uniform()
}

/// Nearly normal, with mean 0 and variance 1: the sum of four random bytes. Cheap, for it is needed for every value.
fn noise(random: &mut Random) -> f32 {
    let sum: i32 = random.u32().to_le_bytes().iter().map(|&b| i32::from(b)).sum();
    // The standard deviation of the sum is sqrt(4 (256^2 - 1) / 12).
    (sum - 510) as f32 * (1.0 / 147.800_54)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_has_unit_variance() {
        let mut random = Random::new(0, 0);
        let n = 100_000;
        let (mut sum, mut squares) = (0.0f64, 0.0f64);
        for _ in 0..n {
            let v = f64::from(noise(&mut random));
            sum += v;
            squares += v * v;
        }
        assert!((sum / f64::from(n)).abs() < 0.02);
        assert!((squares / f64::from(n) - 1.0).abs() < 0.02);
    }

    /// The brightness-weighted centre of what differs from the background, and its amount.
    fn actor_in(frame: &[u8], size: usize) -> ([f64; 2], f64) {
        let (mut centre, mut mass) = ([0.0; 2], 0.0);
        for (i, pixel) in frame.chunks_exact(3).enumerate() {
            let excess = pixel.iter().map(|&v| f64::from(v)).fold(0.0, f64::max) - 100.0;
            if excess > 0.0 {
                centre[0] += excess * (i % size) as f64;
                centre[1] += excess * (i / size) as f64;
                mass += excess;
            }
        }
        (centre.map(|c| c / mass), mass)
    }

    #[test]
    fn actors_do_what_the_event_says() {
        for (i, event) in Event::all().enumerate() {
            do_what_the_event_says(event, Stage::SMALL, i as u64);
            do_what_the_event_says(event, Stage { frames: 6, size: 64 }, i as u64);
        }
    }

    fn do_what_the_event_says(event: Event, stage: Stage, seed: u64) {
        let clip = render([event, event], stage, &mut Random::new(1, seed));
        let Stage { frames, size } = stage;
        let frame = |i: usize| actor_in(&clip[i * size * size * 3..][..size * size * 3], size);
        let ((before, small), (after, large)) = (frame(0), frame(frames / 2 - 1));
        let scale = f64::from(stage.scale());
        let moved = [after[0] - before[0], after[1] - before[1]].map(|pixels| pixels / scale);
        let expected = match event.action {
            Action::Left => [-12.0, 0.0],
            Action::Right => [12.0, 0.0],
            Action::Rise => [0.0, -12.0],
            Action::Fall => [0.0, 12.0],
            Action::Grow | Action::Shrink => [0.0, 0.0],
        };
        // A triangle is not centred on its centroid, which moves a little when it grows.
        let tolerance = if matches!(event.action, Action::Grow | Action::Shrink) { 1.6 } else { 0.3 };
        assert!(moved.iter().zip(expected).all(|(m, e)| (m - e).abs() < tolerance), "{event:?}: {moved:?}");
        let ratio = large / small;
        let right_size = match event.action {
            Action::Grow => ratio > 3.0,
            Action::Shrink => ratio < 1.0 / 3.0,
            _ => (ratio - 1.0).abs() < 0.1,
        };
        assert!(right_size, "{event:?}: {ratio}");
    }
}
