//! Datasets: annotations, feature files, and the synthetic world.
