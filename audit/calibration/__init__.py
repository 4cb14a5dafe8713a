"""How often the audit is right: pairs with a planted outcome, and the rates at which they get their verdict."""
