"""The processes of `mongars up` on one machine (Ray, the Serve application, the API), supervised together."""
