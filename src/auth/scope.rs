//! What a key may be used for.

use std::fmt;

/// One thing a key can permit. None of them implies another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The `/v1` API.
    Inference,
    /// Registering nodes.
    Nodes,
    /// The control API.
    Admin,
}

/// A set of scopes in one byte.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scope {
    /// All scopes, in the order in which they are listed.
    pub const ALL: [Self; 3] = [Self::Inference, Self::Nodes, Self::Admin];

    /// The name used in files, on the command line and in the control API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Inference => "inference",
            Self::Nodes => "nodes",
            Self::Admin => "admin",
        }
    }

    /// The scope of a name, case-sensitive.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.name() == name)
    }

    fn bit(self) -> u8 {
        match self {
            Self::Inference => 1,
            Self::Nodes => 2,
            Self::Admin => 4,
        }
    }
}

impl Scopes {
    /// Permits nothing.
    pub const NONE: Self = Self(0);

    /// This set with one more scope.
    #[must_use]
    pub fn with(self, scope: Scope) -> Self {
        Self(self.0 | scope.bit())
    }

    /// Whether the scope is in the set.
    #[must_use]
    pub fn contains(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// Whether the set permits nothing.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The scopes of the set, in listing order.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL
            .into_iter()
            .filter(move |scope| self.contains(*scope))
    }
}

impl From<Scope> for Scopes {
    fn from(scope: Scope) -> Self {
        Self::NONE.with(scope)
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        scopes.into_iter().fold(Self::NONE, Self::with)
    }
}

impl fmt::Display for Scopes {
    /// Comma-separated names.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, scope) in self.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{}", scope.name())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scopes({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_found_by_its_own_name_only() {
        for scope in Scope::ALL {
            assert_eq!(Scope::from_name(scope.name()), Some(scope));
        }
        assert_eq!(Scope::from_name("Admin"), None);
        assert_eq!(Scope::from_name(""), None);
    }

    #[test]
    fn a_set_holds_what_was_put_in_and_nothing_else() {
        let scopes: Scopes = [Scope::Admin, Scope::Inference, Scope::Admin]
            .into_iter()
            .collect();
        assert!(scopes.contains(Scope::Inference) && scopes.contains(Scope::Admin));
        assert!(!scopes.contains(Scope::Nodes));
        assert_eq!(scopes.to_string(), "inference,admin");
        assert!(Scopes::NONE.is_empty() && !scopes.is_empty());
        assert!(
            !Scopes::from(Scope::Admin).contains(Scope::Inference),
            "admin implies nothing"
        );
    }
}
