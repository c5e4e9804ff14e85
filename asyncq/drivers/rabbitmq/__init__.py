"""amqp://, amqps://: queues in RabbitMQ, and outcomes that are told to their sender alone."""
