//! OTP supervision for actix actors.
