//! How rows are shared out.

use crate::Result;
use crate::gpu::{Gpu, KernelFamily};
use crate::kernels::expect_iterations;
use crate::kernels::shape::in_fours;
use crate::shader::Variant;

/// How the rows of a matrix are spread over invocations; see `shaders/shared/row.wgsl`.
#[derive(Clone, Copy, Debug)]
pub(in crate::kernels) struct RowPlan {
    /// Invocations that share a row.
    lanes: u32,
    /// Whether they are a subgroup.
    subgroup: bool,
    /// Whether an element of the shader is four of the tensor.
    vec4: bool,
    /// Elements of an invocation, where a subgroup holds the whole row in registers; otherwise 0.
    steps: u32,
    rows: usize,
}

impl RowPlan {
    /// Rows that a subgroup does one after another.
    const IN_SEQUENCE: u32 = 8;
    /// Elements of an invocation in a row, at most: it passes three times over 8 rows, and must not loop more often
    /// than software adapters allow. Wider rows take the whole of a tiled workgroup.
    const MOST_STEPS: usize = 2048;
    /// Invocations of a tiled workgroup.
    const TILED: u32 = 128;
    /// Rows, in elements of an invocation, for which there are kernels without loops: those of powers of two, and of
    /// the models' widths (384 and 768 with subgroups of 8).
    const STRAIGHT: [u32; 7] = [1, 2, 4, 8, 12, 16, 24];

    /// The plan for `rows` rows of `width` elements.
    ///
    /// # Errors
    /// [`Error::LimitExceeded`] for rows that are too wide for a software adapter.
    pub(in crate::kernels) fn new(op: &'static str, gpu: &Gpu, rows: usize, width: usize) -> Result<Self> {
        let (elements, vec4) = in_fours(width);
        let lanes = match (gpu.family(), elements) {
            (KernelFamily::Subgroup { size: lanes }, _) if elements <= Self::MOST_STEPS * lanes as usize => {
                return Ok(Self { lanes, subgroup: true, vec4, steps: 0, rows });
            }
            (_, 0..=16) => 8,
            (_, 17..=64) => 32,
            _ => Self::TILED,
        };
        // Three passes, and the reductions.
        expect_iterations(gpu, op, 3 * elements.div_ceil(lanes as usize) + 64)?;
        Ok(Self { lanes, subgroup: false, vec4, steps: 0, rows })
    }

    /// One of every kind.
    pub(in crate::kernels) fn all() -> Vec<Self> {
        let lanes = [(8, false), (32, false), (Self::TILED, false), (4, true), (8, true), (16, true)];
        lanes
            .into_iter()
            .flat_map(|(lanes, subgroup)| [false, true].map(|vec4| Self { lanes, subgroup, vec4, steps: 0, rows: 0 }))
            .collect()
    }

    /// As [`RowPlan::all`], and those without loops: for kernels that have such an edition.
    pub(in crate::kernels) fn all_straight() -> Vec<Self> {
        let straight = [4, 8, 16]
            .into_iter()
            .flat_map(|lanes| Self::STRAIGHT.map(|steps| Self { lanes, subgroup: true, vec4: true, steps, rows: 0 }));
        Self::all().into_iter().chain(straight).collect()
    }

    /// The same without loops where there is such an edition for rows of `width`.
    pub(in crate::kernels) fn straight(self, width: usize) -> Self {
        let (elements, lanes) = (self.elements(width), self.lanes as usize);
        let steps = (elements / lanes) as u32;
        let fits = self.subgroup && self.vec4 && elements % lanes == 0 && Self::STRAIGHT.contains(&steps);
        Self { steps: if fits { steps } else { 0 }, ..self }
    }

    /// `variant` with the defines that `row.wgsl` expects.
    pub(in crate::kernels) fn specialise(self, variant: Variant) -> Variant {
        variant
            .set("LANES", self.lanes)
            .set("ROWS", self.abreast())
            .set("SEQUENCE", self.sequence())
            .on("SUBGROUP", self.subgroup)
            .on("VEC4", self.vec4)
            .maybe("STEPS", (self.steps > 0).then_some(self.steps))
    }

    /// Elements of the shader in a row of `width`.
    pub(in crate::kernels) fn elements(self, width: usize) -> usize {
        if self.vec4 { width / 4 } else { width }
    }

    /// The grid.
    pub(in crate::kernels) fn grid(self, gpu: &Gpu) -> [u32; 3] {
        gpu.grid(self.rows.div_ceil((self.abreast() * self.sequence()) as usize))
    }

    fn abreast(self) -> u32 {
        if self.subgroup { 1 } else { Self::TILED / self.lanes }
    }

    fn sequence(self) -> u32 {
        if self.subgroup { Self::IN_SEQUENCE } else { 1 }
    }
}
