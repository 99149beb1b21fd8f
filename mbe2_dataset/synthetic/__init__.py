"""The built-in catalogue: drawn products with known truth and known noise."""
