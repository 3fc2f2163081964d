"""What penalties cost at any scale, predicted from formulas."""
