"""What any process may ask and change, with no worker alive."""
