//! What a policy's module carries beside its code, and what its author writes into it: a description, the schema of its
//! config, and test cases. All of it comes from outside and is read without an engine, by functions over bytes.

pub mod case;
pub mod schema;
pub mod sections;
pub mod shown;
