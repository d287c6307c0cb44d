//! Acknowledged changes survive crashes of the server and outages of the database.

mod administrators;
mod expected_state;
mod kill;
mod outage;

use crate::common::{backend, postgres, requests, server};
