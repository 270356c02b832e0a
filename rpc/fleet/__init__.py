"""DeviceService and MeasureService: agents, their jobs, and what becomes of them."""
