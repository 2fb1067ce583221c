//! Shapes and threads over kernels.
