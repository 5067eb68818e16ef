"""BabyAI and MiniGrid: missions in a grid world of rooms, doors, keys and boxes, seen from where one stands."""
