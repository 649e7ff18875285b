//! Conformance of the submission server, by RFC and section. A test's name is the requirement. All but the socket tests in
//! the library drive the pure session, with [`support::Dialogue`] in the place of the driver.

mod boundaries;
mod rfc2852;
mod rfc2920;
mod rfc3030;
mod rfc3207;
mod rfc3461;
mod rfc4865;
mod rfc4954;
mod rfc5321;
mod rfc6409;
mod rfc6531;
mod support;
