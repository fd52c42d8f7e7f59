//! What the driver reports out of band: errors that no scope caught, and the loss of the device.

use std::sync::{Arc, Mutex, PoisonError};

use crate::{Error, Result};

/// The first failure of a device. It is returned by every later call, so one cause stays one message.
#[derive(Default)]
pub(super) struct Health(Mutex<Option<Failure>>);

#[derive(Clone)]
enum Failure {
    Lost(String),
    OutOfMemory,
    Other(String),
}

impl Health {
    /// Listens to `device`.
    pub(super) fn watch(device: &wgpu::Device) -> Arc<Self> {
        let health = Arc::new(Self::default());
        let (lost, error) = (health.clone(), health.clone());
        device.set_device_lost_callback(move |reason, text| {
            // Dropping the device is no failure.
            if reason != wgpu::DeviceLostReason::Destroyed || !text.is_empty() {
                lost.fail(Failure::Lost(format!("{reason:?} {text}").trim().to_string()));
            }
        });
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| {
            error.fail(match e {
                wgpu::Error::OutOfMemory { .. } => Failure::OutOfMemory,
                other => Failure::Other(other.to_string()),
            });
        }));
        health
    }

    fn fail(&self, failure: Failure) {
        log::error!("GPU failure: {}", Error::from(failure.clone()));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
    }

    /// Notes that the device produced no or wrong results although no error was reported.
    pub(super) fn silent_failure(&self, what: String) {
        self.fail(Failure::Lost(what));
    }

    /// The first failure, if there was one.
    pub(super) fn check(&self) -> Result<()> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(()),
            Some(failure) => Err(failure.clone().into()),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Lost(reason) => Error::DeviceLost { reason },
            Failure::OutOfMemory => Error::OutOfMemory { op: "a submission".into(), bytes: 0, live_bytes: 0 },
            Failure::Other(message) => Error::Gpu { op: "a submission".into(), message },
        }
    }
}
