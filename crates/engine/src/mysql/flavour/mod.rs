//! What differs between the members of the MySQL family.

pub(super) mod mariadb;
