//! The contact list, and contacts' pictures.

use halloo_protocol::contact::Contact;
use halloo_protocol::identity::UserId;
use halloo_protocol::wire;

use super::table::{Table, check_length, decode_value};
use super::{StoreError, Transaction, VALUE_BYTES_MAX, View};

impl View {
    /// Everybody in the list. For starting up.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Value`].
    pub fn contacts(&self) -> Result<Vec<Contact>, StoreError> {
        self.all(Table::Contacts)?.iter().map(|(_, value)| decode_value(Table::Contacts, value)).collect()
    }

    /// A contact's picture.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn contact_avatar(&self, user: &UserId) -> Result<Option<Vec<u8>>, StoreError> {
        self.get(Table::ContactAvatars, &wire::encode(user))
    }
}

impl Transaction {
    /// Keeps somebody, in place of what was kept. The roster bounds how many there are.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Database`].
    pub fn put_contact(&self, contact: &Contact) -> Result<(), StoreError> {
        let bytes = wire::encode(contact);
        check_length("contact", &bytes, VALUE_BYTES_MAX)?;
        self.put(Table::Contacts, &wire::encode(&contact.entry.user), &bytes)
    }

    /// Forgets somebody, and their picture.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn remove_contact(&self, user: &UserId) -> Result<(), StoreError> {
        let key = wire::encode(user);
        self.remove(Table::Contacts, &key)?;
        self.remove(Table::ContactAvatars, &key)?;
        Ok(())
    }

    /// Keeps a contact's picture.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Database`].
    pub fn put_contact_avatar(&self, user: &UserId, avatar: &[u8]) -> Result<(), StoreError> {
        check_length("avatar", avatar, VALUE_BYTES_MAX)?;
        self.put(Table::ContactAvatars, &wire::encode(user), avatar)
    }
}
