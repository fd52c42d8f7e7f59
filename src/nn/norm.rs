//! Layer normalisation over the last dimension.

use crate::Result;
use crate::autograd::Var;
use crate::kernels::rows::layer_norm::Norm;
use crate::nn::{Init, Parameter, Scope};

/// gain * normalised(x) + bias, in either of the two definitions of [`Norm`].
#[derive(Clone, Debug)]
pub struct LayerNorm {
    gain: Parameter,
    bias: Parameter,
    norm: Norm,
}

impl LayerNorm {
    /// PyTorch's: declares `weight` (ones) and `bias` (zeros); biased variance, `eps` in the root.
    ///
    /// # Errors
    /// [`crate::Error::DuplicateParameter`].
    pub fn new(s: &Scope<'_>, width: usize, eps: f32) -> Result<Self> {
        let gain = s.declare("weight", [width], Init::Constant(1.0))?;
        let bias = s.declare("bias", [width], Init::Constant(0.0))?;
        Ok(Self { gain, bias, norm: Norm::Biased { eps } })
    }

    /// BiC-Net's: declares `gain` (ones) and `bias`; unbiased deviation, `eps` added to it.
    ///
    /// # Errors
    /// [`crate::Error::DuplicateParameter`].
    pub fn unbiased(s: &Scope<'_>, width: usize, eps: f32, bias: &Init) -> Result<Self> {
        let gain = s.declare("gain", [width], Init::Constant(1.0))?;
        let bias = s.declare("bias", [width], bias.clone())?;
        Ok(Self { gain, bias, norm: Norm::Unbiased { eps } })
    }

    /// Normalises x (.., width).
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn forward(&self, x: &Var) -> Result<Var> {
        x.layer_norm(None, &self.gain.on(x.tape()), &self.bias.on(x.tape()), self.norm)
    }

    /// Normalises x + residual in one kernel.
    ///
    /// # Errors
    /// [`crate::Error::Shape`].
    pub fn of_sum(&self, x: &Var, residual: &Var) -> Result<Var> {
        x.layer_norm(Some(residual), &self.gain.on(x.tape()), &self.bias.on(x.tape()), self.norm)
    }
}
