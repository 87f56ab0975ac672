"""Arms for users of other trainers: each module gives them the form that its trainer calls."""
