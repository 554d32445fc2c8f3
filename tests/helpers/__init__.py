"""What several test modules share: tiny cases, tiny recipes, run folders made by hand, commands as typed."""
