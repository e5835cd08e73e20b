//! Registered nodes, and which nodes operators want drained.

use std::collections::HashMap;
use std::time::Instant;

use rusqlite::{Connection, Row, ToSql, params};

use crate::auth::Secret;
use crate::auth::key::KeyHash;

use super::keeper::{Durability, Keeper};
use super::seal::Sealer;
use super::{Store, StoreError};

/// A node that registered, or was registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredNode {
    /// Random, unique.
    pub id: u64,
    /// Unique among the registered nodes.
    pub name: String,
    /// As `config::BaseUrl` reads it.
    pub base_url: String,
    /// Without control characters; none if the node is asked.
    pub models: Vec<String>,
    /// What it must be sent.
    pub api_key: Credential,
    /// `None`: what its engine reports.
    pub max_concurrency: Option<u32>,
    /// Its relative share.
    pub weight: u32,
    /// Of the token it must show.
    pub token_digest: KeyHash,
    /// Unix seconds.
    pub created_at: u64,
}

/// What a node must be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// Nothing.
    None,
    /// This.
    Known(Secret),
    /// Something, but the key that it was sealed with is gone: it must be entered again.
    Lost,
}

impl Store {
    /// All registered nodes, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Busy`] or [`StoreError::Unavailable`].
    pub fn nodes(&self) -> Result<Vec<StoredNode>, StoreError> {
        self.call(|keeper, until| {
            let rows = keeper.read(until, read_nodes)?;
            let sealer = keeper.sealer();
            Ok(rows.into_iter().map(|row| row.open(sealer)).collect())
        })
    }

    /// Adds a node, which nobody wants drained.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if a node has its id or name; else as [`Store::nodes`].
    pub fn add_node(&self, node: StoredNode) -> Result<(), StoreError> {
        self.call(move |keeper, until| {
            let api_key = seal(keeper, &node)?;
            keeper.write(until, Durability::Disk, |transaction| {
                // What was wanted of an earlier node of this name is not wanted of this one.
                transaction.execute(REMOVE_DRAIN, [&node.name])?;
                insert_node(transaction, Adding::New, &node, api_key.as_deref())
            })?;
            Ok(())
        })
    }

    /// Adds those of these nodes whose id and name are not there, and seals again what does not open any more.
    /// Else a node that is there stays as it is. Says how many were missing.
    ///
    /// # Errors
    /// As [`Store::nodes`].
    pub fn add_missing_nodes(&self, nodes: Vec<StoredNode>) -> Result<usize, StoreError> {
        self.call(move |keeper, until| {
            let kept: HashMap<u64, StoredNode> = (keeper.read(until, read_nodes)?.into_iter())
                .map(|row| row.open(keeper.sealer()))
                .map(|node| (node.id, node))
                .collect();
            let is_lost = |node: &StoredNode| node.api_key == Credential::Lost;
            let mut missing = Vec::new();
            for node in nodes {
                let is_missing = match kept.get(&node.id) {
                    Some(kept) => is_lost(kept) && !is_lost(&node),
                    None => true,
                };
                if is_missing {
                    let sealed = seal(keeper, &node)?;
                    missing.push((node, sealed));
                }
            }
            keeper.write(until, Durability::Disk, |transaction| {
                let mut added = 0;
                for (node, sealed) in &missing {
                    if insert_node(transaction, Adding::Missing, node, sealed.as_deref())? {
                        added += 1;
                    } else {
                        let id = node.id.cast_signed();
                        transaction.execute(SEAL_AGAIN, params![id, sealed])?;
                    }
                }
                Ok(added)
            })
        })
    }

    /// Changes a node to what is given; its id, name and time of creation stay. A credential that is
    /// [`Credential::Lost`] is left as it is. `false` if there is no such node.
    ///
    /// # Errors
    /// As [`Store::nodes`].
    pub fn update_node(&self, node: StoredNode) -> Result<bool, StoreError> {
        self.call(move |keeper, until| {
            let api_key = seal(keeper, &node)?;
            let keeps_api_key = node.api_key == Credential::Lost;
            let changed = keeper.write(until, Durability::Disk, |transaction| {
                transaction.execute(
                    "UPDATE node SET base_url = ?2, models = ?3, api_key = iif(?4, api_key, ?5), \
                     max_concurrency = ?6, weight = ?7, token_digest = ?8 WHERE id = ?1",
                    params![
                        node.id.cast_signed(),
                        node.base_url,
                        node.models.join("\n"),
                        keeps_api_key,
                        api_key,
                        node.max_concurrency,
                        node.weight,
                        node.token_digest.0,
                    ],
                )
            })?;
            Ok(changed > 0)
        })
    }

    /// Removes a node; `false` if there is no such node.
    ///
    /// # Errors
    /// As [`Store::nodes`].
    pub fn remove_node(&self, id: u64) -> Result<bool, StoreError> {
        self.call(move |keeper, until| {
            execute(
                keeper,
                until,
                "DELETE FROM node WHERE id = ?1",
                &[&id.cast_signed()],
            )
        })
    }

    /// Names of the nodes an operator wants drained, in order.
    ///
    /// # Errors
    /// As [`Store::nodes`].
    pub fn drains(&self) -> Result<Vec<String>, StoreError> {
        self.call(|keeper, until| keeper.read(until, read_drains))
    }

    /// An operator wants this node drained.
    ///
    /// # Errors
    /// As [`Store::nodes`].
    pub fn add_drain(&self, node: String) -> Result<(), StoreError> {
        self.call(move |keeper, until| execute(keeper, until, ADD_DRAIN, &[&node]).map(drop))
    }

    /// Operators want these nodes drained, and no others.
    ///
    /// # Errors
    /// As [`Store::nodes`].
    pub fn set_drains(&self, nodes: Vec<String>) -> Result<(), StoreError> {
        self.call(move |keeper, until| {
            keeper.write(until, Durability::Disk, |transaction| {
                transaction.execute("DELETE FROM drain", [])?;
                take_in_drains(transaction, &nodes)
            })
        })
    }

    /// And no longer. `false` if nobody wanted it.
    ///
    /// # Errors
    /// As [`Store::nodes`].
    pub fn remove_drain(&self, node: String) -> Result<bool, StoreError> {
        self.call(move |keeper, until| execute(keeper, until, REMOVE_DRAIN, &[&node]))
    }
}

/// A node as its row has it.
pub(super) struct NodeRow {
    node: StoredNode,
    sealed: Option<Vec<u8>>,
}

/// What becomes of a node whose id or name is there already.
#[derive(Clone, Copy)]
enum Adding {
    /// It is a conflict.
    New,
    /// It stays.
    Missing,
    /// It gives way.
    Instead,
}

impl NodeRow {
    fn open(self, sealer: &Sealer) -> StoredNode {
        let mut node = self.node;
        if let Some(sealed) = self.sealed {
            node.api_key = match sealer.open(node.id, &sealed) {
                Some(secret) => Credential::Known(secret),
                None => Credential::Lost,
            };
        }
        node
    }
}

pub(super) fn read_nodes(connection: &Connection) -> rusqlite::Result<Vec<NodeRow>> {
    let mut select = connection.prepare(
        "SELECT id, name, base_url, models, api_key, max_concurrency, weight, token_digest, \
         created_at FROM node ORDER BY created_at, id",
    )?;
    select.query_map([], read_node)?.collect()
}

fn read_node(row: &Row<'_>) -> rusqlite::Result<NodeRow> {
    let models: String = row.get(3)?;
    Ok(NodeRow {
        sealed: row.get(4)?,
        node: StoredNode {
            id: row.get::<_, i64>(0)?.cast_unsigned(),
            name: row.get(1)?,
            base_url: row.get(2)?,
            models: models.lines().map(str::to_owned).collect(),
            api_key: Credential::None,
            max_concurrency: row.get(5)?,
            weight: row.get(6)?,
            token_digest: KeyHash(row.get(7)?),
            created_at: row.get::<_, i64>(8)?.cast_unsigned(),
        },
    })
}

pub(super) fn read_drains(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut select = connection.prepare("SELECT node FROM drain ORDER BY node")?;
    select.query_map([], |row| row.get(0))?.collect()
}

/// Adds nodes as their rows had them; others of their ids and names give way.
pub(super) fn take_in_nodes(connection: &Connection, rows: &[NodeRow]) -> rusqlite::Result<()> {
    for NodeRow { node, sealed } in rows {
        insert_node(connection, Adding::Instead, node, sealed.as_deref())?;
    }
    Ok(())
}

pub(super) fn take_in_drains(connection: &Connection, drains: &[String]) -> rusqlite::Result<()> {
    let mut insert = connection.prepare(ADD_DRAIN)?;
    drains
        .iter()
        .try_for_each(|node| insert.execute([node]).map(drop))
}

/// `false` if nothing was added.
fn insert_node(
    connection: &Connection,
    adding: Adding,
    node: &StoredNode,
    api_key: Option<&[u8]>,
) -> rusqlite::Result<bool> {
    let insert = match adding {
        Adding::New => "INSERT",
        Adding::Missing => "INSERT OR IGNORE",
        Adding::Instead => "INSERT OR REPLACE",
    };
    let added = connection.execute(
        &format!("{insert} {INTO_NODE}"),
        params![
            node.id.cast_signed(),
            node.name,
            node.base_url,
            node.models.join("\n"),
            api_key,
            node.max_concurrency,
            node.weight,
            node.token_digest.0,
            node.created_at.cast_signed(),
        ],
    )?;
    Ok(added > 0)
}

fn seal(keeper: &Keeper, node: &StoredNode) -> Result<Option<Vec<u8>>, StoreError> {
    match &node.api_key {
        Credential::None | Credential::Lost => Ok(None),
        Credential::Known(secret) => match keeper.sealer().seal(node.id, secret) {
            Ok(sealed) => Ok(Some(sealed)),
            Err(error) => Err(keeper.cannot_seal(&error)),
        },
    }
}

/// Runs one statement; `true` if it changed a row.
pub(super) fn execute(
    keeper: &mut Keeper,
    until: Instant,
    sql: &str,
    parameters: &[&dyn ToSql],
) -> Result<bool, StoreError> {
    let changed = keeper.write(until, Durability::Disk, |transaction| {
        transaction.execute(sql, parameters)
    })?;
    Ok(changed > 0)
}

const ADD_DRAIN: &str = "INSERT INTO drain (node) VALUES (?1) ON CONFLICT DO NOTHING";
const REMOVE_DRAIN: &str = "DELETE FROM drain WHERE node = ?1";
const SEAL_AGAIN: &str = "UPDATE node SET api_key = ?2 WHERE id = ?1";
const INTO_NODE: &str = "
    INTO node
        (id, name, base_url, models, api_key, max_concurrency, weight, token_digest, created_at)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
